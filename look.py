import sys, numpy as np, tensorflow as tf
from PIL import Image
exec(open('/tmp/h/snap.py').read().split("report('drawn 64'")[0])
R=real.astype('float32').reshape(len(real),-1)
def near(x): 
    X=x.astype('float32').reshape(len(x),-1); d=(X**2).sum(1)[:,None]+(R**2).sum(1)[None]-2*X@R.T; return d.argmin(1)
i=near(p64[:48]); rows=[p64[:16],real[i[:16]],up(p16[:16]),p64[16:32],real[i[16:32]],up(p16[16:32])]
im=np.concatenate([np.concatenate(list(r),1) for r in rows],0)
Image.fromarray(im).resize((im.shape[1]*2//1,im.shape[0]*2),Image.NEAREST).crop((0,0,2048,im.shape[0]*2)).save(sys.argv[2])
n=near(p64); e=p64.astype('float32')-real[n].astype('float32'); print('rms to nearest',np.sqrt((e**2).mean()))
e16=p16.astype('float32')-real16[n].astype('float32'); print('rms16',np.sqrt((e16**2).mean()), 'rms up', np.sqrt(((up(p16).astype('float32')-real[n])**2).mean()), 'real up', np.sqrt(((up(real16[n]).astype('float32')-real[n])**2).mean()))
# what mixes do: low from ours, high from real; and the reverse
lo=lambda x: up(np.clip(np.round(x.astype('float32').reshape(len(x),16,4,16,4,3).mean((2,4))),0,255)).astype('float32')
a=np.clip(lo(p64)+real[n]-lo(real[n]),0,255).astype('uint8'); b=np.clip(lo(real[n])+p64-lo(p64),0,255).astype('uint8')
report('low ours, high real',a); report('low real, high ours',b)
for k in (0.25,.5,.75): report(f'mix {k} of error',np.clip(real[n]+k*e,0,255).astype('uint8'))
